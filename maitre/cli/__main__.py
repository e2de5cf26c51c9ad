"""`python -m maitre.cli`."""

from maitre.cli.main import main

if __name__ == "__main__":
    main()
