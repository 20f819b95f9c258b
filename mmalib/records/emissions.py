"""What training and inference take in energy and emit: an estimate by CodeCarbon, without a connection to anywhere.

The energy is time times power. Where the machine tells its power (RAPL, NVML) CodeCarbon reads it. Most containers do
not: then that of the CPU is this process's share of it times the watts that CodeCarbon states for it, and that of
memory goes by its size. So these are estimates, and they say how they were made. Emissions are the energy times the
carbon intensity of a country's grid.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def tracked(country: str) -> Iterator[dict]:
    """The estimate for what runs meanwhile, filled in at the end; `country` by its three letters (ISO 3166-1)."""
    os.environ.update(CODECARBON_TELEMETRY_LEVEL="disabled", CODECARBON_LOG_LEVEL="critical")  # read at import
    from codecarbon import OfflineEmissionsTracker
    from codecarbon.input import DataSource

    if country not in DataSource().get_global_energy_mix_data():
        raise ValueError(f"'{country}' is no country whose grid is known. Give three letters, such as NLD or ESP.")
    how = {"output_methods": [], "log_level": "critical", "measure_power_secs": 1, "allow_multiple_runs": True}
    tracker, estimate = OfflineEmissionsTracker(country_iso_code=country, tracking_mode="process", **how), {}
    tracker.start()
    try:
        yield estimate
    finally:
        kilograms, measured = tracker.stop(), tracker.final_emissions_data
        kwh, seconds = measured.energy_consumed, measured.duration
        # of the hardware CodeCarbon tells in private alone; its version is pinned
        parts = [(str(part), getattr(part, "_tdp", None)) for part in tracker._hardware]
        estimate |= {
            "country": country,
            "seconds": seconds,  # of this sitting; what earlier ones took follows from watts and the run's timings
            "watts": 3.6e6 * kwh / seconds,
            "grams_a_kwh": 1000 * kilograms / kwh if kwh else 0.0,
            "estimated_from": ", ".join(f"{name} of {watts} W" if watts else name for name, watts in parts),
        }
