"""An OpenAI-compatible model for laptops without a key, for tests, and for breaking on purpose.

`python -m shared.offline_model` runs it alone; in a test, `OfflineModel` runs it in a thread.
"""

from shared.offline_model.answers import ToolCall, Usage
from shared.offline_model.control import OfflineModel
from shared.offline_model.recorder import Call, Outcome
from shared.offline_model.scenarios import Behaviour, Scenario

__all__ = ["Behaviour", "Call", "OfflineModel", "Outcome", "Scenario", "ToolCall", "Usage"]
