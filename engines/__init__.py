"""The engines of r2sm-server: language model, vision path, bundles, evaluation. They know nothing of HTTP."""
