"""`python -m fedmem`: the same as the command `fedmem`."""

from fedmem.cli import main

if __name__ == "__main__":
    main()
