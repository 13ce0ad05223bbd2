"""Studies: train one recipe with every combination of some values, and rank and compare the settings.

- `definition`: reading `study.toml` and `--vary`, and the run of each combination. `folder`: the study's folder.
- `sweep`: running a study. `jobs`: one run in any process. `engines`: where jobs run. `display`: progress.
- `outcome`: the table of results. `pictures`: the figures.
"""
