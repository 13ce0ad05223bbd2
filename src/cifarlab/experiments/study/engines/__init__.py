"""The engines that train a study's jobs: in worker processes of this machine, or in a Ray cluster.

Both have the same methods: `submit` begins a job if `has_room`, `poll` returns the results of jobs that ended, `stop`
asks all jobs to save and end, after which `poll` returns their results, and `close` ends all processes.
"""
