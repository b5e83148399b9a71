# mmcv's own non-local modules computed with our operators: same parameters and results.
_base_ = './nl_plugins.py'
custom_imports = dict(imports=['nl_plugins', 'nl_plugins.accelerate'])
