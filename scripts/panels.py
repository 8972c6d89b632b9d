def draw_panels(cases, path): pass
