_base_ = 'mmpretrain::_base_/default_runtime.py'
custom_imports = dict(imports=['nl_plugins'], allow_failed_imports=False)
custom_hooks = [dict(type='CheckRunHook')]
default_hooks = dict(
    checkpoint=dict(max_keep_ckpts=1, save_best='auto'),
    random_state=dict(type='RandomStateHook'),
)
