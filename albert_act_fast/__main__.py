"""`python -m albert_act_fast` is the command `albert-act-fast`."""

from albert_act_fast.cli.start import main

if __name__ == "__main__":
    main()
