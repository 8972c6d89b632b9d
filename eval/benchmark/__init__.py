"""The proof of speed: every contender in one run, python -m eval.benchmark.

`contenders` lists what is measured, `bundle_runs`, `reference_loop`, `students` and `teachers` measure it, `targets`
and `fits` judge the figures, `plots` draws them.
"""
