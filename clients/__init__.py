"""The Flower ClientApp: what a hospital does. All logic is in `fedmem`."""
