"""`python -m sweep` is `energyaware`, for whoever has an interpreter and no scripts folder at hand."""

from sweep.cli import main

if __name__ == "__main__":
    main()
