def run_evaluation(**k): print("EVAL", list(k))
