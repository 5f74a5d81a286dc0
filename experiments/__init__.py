"""The paper's experiments, a file each: config, presets and main."""
