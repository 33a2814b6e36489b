"""``python -m focusdoc``: the command line."""

from focusdoc.cli.main import main

if __name__ == "__main__":
    main()
