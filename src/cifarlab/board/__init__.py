"""The board: web pages and a JSON interface over a folder of runs.

`app` puts the application together, `access` decides who gets in, `api` and `pages` answer requests.
"""
