"""Calibration: read samples, run the float model on them, and choose the range of every tensor.

Example:
    samples = open_calibration("photos/", graph_inputs(graph), preprocess)
    statistics = calibrate(Interpreter(graph), samples, {"conv1": make_observer("mse")})
    lo, hi = make_observer("mse").range(statistics["conv1"])
"""
