"""How a figure is taken: time in turn, answers checked, launches counted, the machine named."""
