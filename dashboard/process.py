"""The page's process: `streamlit run`, with the log and the traces that every worker has."""

from streamlit.web import cli

from tars import __version__
from tars.runtime.settings import load_settings
from tars.runtime.telemetry import start_telemetry


def main() -> None:
    """Run Streamlit with the arguments of this process until it ends."""
    settings = load_settings()
    collector = settings.otel_exporter_otlp_endpoint
    start_telemetry("dashboard", settings.log_level, version=__version__, collector=collector)
    cli.main(prog_name="streamlit")


if __name__ == "__main__":
    main()
