"""The board, web pages and a JSON interface over a folder of runs, and `cifarlab serve`, predictions of one network.

`app` puts the board together, `service` the other; both use `access`, which decides who gets in, `predictions` and
`server`. `api` and `pages` answer the board's requests.
"""
