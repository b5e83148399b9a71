custom_imports = dict(imports=['nl_plugins'], allow_failed_imports=False)
