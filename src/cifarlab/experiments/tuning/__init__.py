"""Tuning: search for better settings of a recipe, in any number of processes.

- `search`: `tune`, and the training of a trial.
- `searchspace`: the file that says which settings are tried.
- `sharing`: processes that share the trials of one Optuna study; `database`: their connection.
- `trials`: the records of a tuning, and the files and figures written from them.
"""
