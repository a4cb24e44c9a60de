"""Calibration: read samples, run the float model on them, and choose the range of every tensor.

    samples = open_calibration("photos/", graph_inputs(graph), preprocess)     readers, checks, digest
    statistics = calibrate(graph, samples, {"conv1": make_observer("mse")})   streaming, bounded memory
    lo, hi = make_observer("mse").range(statistics["conv1"])                  one observer a file
"""
