"""One file per figure: `frame(…)` collects its data, `draw(frame, axis)` shows them and computes nothing."""
