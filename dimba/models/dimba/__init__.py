"""DIMBA, a masked diffusion language model of bidirectional Mamba-2 blocks, registered with transformers by its import.

`AutoConfig`, `AutoModel` and `AutoModelForMaskedLM` know `model_type: dimba` from then on.
"""

try:
    from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

    from dimba.models.dimba.configuration import DimbaConfig
    from dimba.models.dimba.mixing import active_scan
    from dimba.models.dimba.modeling import DimbaForMaskedLM, DimbaModel, DimbaPreTrainedModel
except ModuleNotFoundError as error:
    raise ImportError(f"dimba.models.dimba needs {error.name}, which this Python lacks", name=error.name) from error

AutoConfig.register(DimbaConfig.model_type, DimbaConfig)
AutoModel.register(DimbaConfig, DimbaModel)
AutoModelForMaskedLM.register(DimbaConfig, DimbaForMaskedLM)

__all__ = ["DimbaConfig", "DimbaForMaskedLM", "DimbaModel", "DimbaPreTrainedModel", "active_scan"]
