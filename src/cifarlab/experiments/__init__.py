"""Many runs with one purpose: studies, tunings, reproductions, reruns, range tests and benchmarks."""
