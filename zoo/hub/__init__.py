"""The Hub and a zoo: repositories catalogued from their headers alone, zoos and models pushed and pulled."""

from weightspace.zoo.hub.ingesting import HubReport, ingest_hub, search
from weightspace.zoo.hub.pulling import Pulled, is_zoo, pull_zoo
from weightspace.zoo.hub.pulling_models import pull_model
from weightspace.zoo.hub.pushing import Pushed, push_model, push_zoo

__all__ = ["HubReport", "Pulled", "Pushed", "ingest_hub", "is_zoo", "pull_model", "pull_zoo", "push_model", "push_zoo", "search"]
