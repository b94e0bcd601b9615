"""A distribution's kernel on the core: fetched, unpacked, its symbols found, its own functions run and compared.

Nothing here needs an image in the repository: `fetch` gets a package through apt, `unpack` and `kallsyms` read it, `guest`
places it in a machine, `cases` says what to run, `runner` runs it on the core and on an emulator, `sweep` counts instructions.
"""
