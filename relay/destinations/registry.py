"""Every destination type there is: the one line that a new one adds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from relay.clock import Clock
from relay.config.destination import DestinationConfig
from relay.destinations.base import Destination
from relay.destinations.datadog import DatadogConfig, datadog
from relay.destinations.elasticsearch import ElasticsearchConfig, elasticsearch
from relay.destinations.file import FileConfig, FileDestination
from relay.destinations.google_secops import GoogleSecOpsConfig, google_secops
from relay.destinations.http import HttpConfig, HttpDestination
from relay.destinations.logscale import LogScaleConfig, logscale
from relay.destinations.loki import LokiConfig, loki
from relay.destinations.newrelic import NewRelicConfig, newrelic
from relay.destinations.object_config import AzureBlobConfig, GcsConfig, S3Config
from relay.destinations.objects import ObjectDestination
from relay.destinations.sentinel import SentinelConfig, sentinel
from relay.destinations.splunk_hec import SplunkHecConfig, splunk_hec
from relay.destinations.sumologic import SumoLogicConfig, SumoLogicDestination
from relay.destinations.syslog import SyslogDestination
from relay.destinations.syslog_config import SyslogConfig


@dataclass(frozen=True, slots=True)
class DestinationType:
    """What a `type` in the configuration stands for."""

    config: type[DestinationConfig]
    make: Callable[..., Destination]  # (config, *, clock); each takes its own config class


DESTINATIONS: Mapping[str, DestinationType] = MappingProxyType(
    {
        "http": DestinationType(HttpConfig, HttpDestination),
        "sumologic": DestinationType(SumoLogicConfig, SumoLogicDestination),
        "splunk_hec": DestinationType(SplunkHecConfig, splunk_hec),
        "logscale": DestinationType(LogScaleConfig, logscale),
        "sentinel": DestinationType(SentinelConfig, sentinel),
        "google_secops": DestinationType(GoogleSecOpsConfig, google_secops),
        "elasticsearch": DestinationType(ElasticsearchConfig, elasticsearch),
        "datadog": DestinationType(DatadogConfig, datadog),
        "loki": DestinationType(LokiConfig, loki),
        "newrelic": DestinationType(NewRelicConfig, newrelic),
        "file": DestinationType(FileConfig, FileDestination),
        "s3": DestinationType(S3Config, ObjectDestination),
        "gcs": DestinationType(GcsConfig, ObjectDestination),
        "azure_blob": DestinationType(AzureBlobConfig, ObjectDestination),
        "syslog": DestinationType(SyslogConfig, SyslogDestination),
    }
)

#: For `relay.config.load`, which builds the union over `type` from it.
CONFIG_TYPES: Mapping[str, type[DestinationConfig]] = MappingProxyType(
    {name: kind.config for name, kind in DESTINATIONS.items()}
)


def build(config: DestinationConfig, *, clock: Clock) -> Destination:
    """The destination that *config*, an instance of one of `CONFIG_TYPES`, describes."""
    return DESTINATIONS[config.type].make(config, clock=clock)
