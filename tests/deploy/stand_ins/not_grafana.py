"""Not Grafana, which no Debian package has: a page that is there when what Grafana reads is there.

It shows that the container gets its files and its password, may write to its volume, and runs with
the rights that compose.yaml leaves it. What Grafana makes of the dashboard it cannot show.
"""

import json
import os
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

CONFIGURATION = Path("/etc/grafana")


class Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        known = self.path == "/api/health"
        self.send_response(200 if known else 404)
        self.end_headers()
        self.wfile.write(b'{"database": "ok", "stand_in": true}' if known else b"")


def main() -> None:
    for kind in ("datasources", "dashboards"):
        assert list((CONFIGURATION / "provisioning" / kind).glob("*.yaml")), kind
    for dashboard in (CONFIGURATION / "dashboards").glob("*.json"):
        json.loads(dashboard.read_text())
    assert Path(os.environ["GF_SECURITY_ADMIN_PASSWORD__FILE"]).read_text().strip()
    Path("/var/lib/grafana/grafana.db").touch()
    HTTPServer(("0.0.0.0", 3000), Health).serve_forever()  # noqa: S104 - inside a container


if __name__ == "__main__":
    main()
