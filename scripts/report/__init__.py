"""From figures to report.html: what was found, written so that a reader sees it.

`findings` puts the report together from an evaluation's rows, `write` writes it, `sections` and `page` make the page,
`plots`, `pictures` and `panels` its pictures. `run_evaluation` is an evaluation with its report, of which it prints the
`summary`.
"""
