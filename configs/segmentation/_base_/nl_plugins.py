custom_imports = dict(imports=['nl_plugins'], allow_failed_imports=False)
# A list, as mmseg's schedules are another base with default_hooks.
custom_hooks = [dict(type='SegDataCheckHook'), dict(type='RandomStateHook')]
