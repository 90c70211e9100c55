"""The shared base: loading it, attaching what is trained, and the recipe of the bundled one."""
