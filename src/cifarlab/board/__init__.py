"""The web page: `state` is what it shows and does, `app` how that is reached by HTTP."""
