"""Alerts in the process, with thresholds of the job's own: a function of the job gets them."""

from genmeter import Alert, AlertOverride, AlertSettings, GenerationMonitor, MonitorConfig

SETTINGS = AlertSettings(
    alerts={
        "high_error_rate": AlertOverride(threshold=0.2, windows=(300.0,), min_samples=10),
        "ConversationsLong": AlertOverride(enabled=False),
    }
)


def page(alert: Alert) -> None:
    """Stands for a message to whoever is on call."""
    print(f"{alert.level} {alert.name} {alert.status}: {alert.message}")


if __name__ == "__main__":
    with GenerationMonitor(alert_handlers=[page], config=MonitorConfig(alerts=SETTINGS)) as monitor:
        for number in range(30):
            failed = number % 3 == 0
            known = {"error": TimeoutError("no answer")} if failed else {"total_token_count": 90}
            monitor.track_generation(0.5, not failed, model_name="atlas-large", **known)
        monitor.check_alerts()  # also every `metrics_interval` seconds by itself
