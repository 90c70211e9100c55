"""fedmem: what can one hospital pull out of a jointly fine-tuned language model?"""
