"""The command `albert-act-fast`; `app.py` lists what it does."""
