"""A real Flower deployment on loopback: a SuperLink and SuperNodes, each a process of its own."""

from __future__ import annotations

import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
SUPERLINK_PORT, NODE_PORT = 38100, 38200


def environment(home: Path) -> dict[str, str]:
    """Flower's commands as a user with a fresh FLWR_HOME calls them, without a network."""
    home.mkdir(exist_ok=True)
    return {
        **os.environ,
        "FLWR_HOME": str(home),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "UV_OFFLINE": "1",
        "HF_HUB_OFFLINE": "1",
    }


def app_copy(folder: Path) -> Path:
    """What a user has in a clone, in a folder of its own: Flower packs the folder it is given."""
    for name in ("clients", "server", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE", "README.md", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def write_certificates(folder: Path) -> None:
    """ca.crt, server.crt and server.key for 127.0.0.1."""
    began = datetime.now(UTC) - timedelta(minutes=5)

    def certificate(
        name: str, issuer: x509.Name | None, key: ec.EllipticCurvePrivateKey, ca: bool
    ) -> x509.CertificateBuilder:
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer or subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(began)
            .not_valid_after(began + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
        )

    ca_key, key = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    ca = certificate("test ca", None, ca_key, True).sign(ca_key, hashes.SHA256())
    own = certificate("127.0.0.1", ca.subject, key, False).sign(ca_key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    (folder / "ca.crt").write_bytes(ca.public_bytes(pem))
    (folder / "server.crt").write_bytes(own.public_bytes(pem))
    (folder / "server.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def write_node_key(file: Path) -> Path:
    """An ECDSA key of P-384 in OpenSSH's format; the public half is `file`.pub."""
    key = ec.generate_private_key(ec.SECP384R1())
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
    )
    file.chmod(0o600)
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    file.with_suffix(".pub").write_bytes(public)
    return file


class Net:
    """Starts processes, keeps what they print in `folder`, and stops them all at the end."""

    def __init__(self, folder: Path, tls: bool) -> None:
        self.folder, self.tls = folder, tls
        self.env = environment(folder / "home")
        self.processes: list[subprocess.Popen[bytes]] = []
        secure = f'root-certificates = "{folder / "ca.crt"}"' if tls else "insecure = true"
        (folder / "home" / "config.toml").write_text(
            f'[superlink]\ndefault = "lab"\n[superlink.lab]\n'
            f'address = "127.0.0.1:{SUPERLINK_PORT}"\n{secure}\n'
        )
        if tls:
            write_certificates(folder)

    def __enter__(self) -> Self:
        more = ["--insecure"]
        if self.tls:
            files = (
                ("ca-certfile", "ca.crt"),
                ("certfile", "server.crt"),
                ("keyfile", "server.key"),
            )
            more = [w for name, f in files for w in (f"--ssl-{name}", str(self.folder / f))]
            more.append("--enable-supernode-auth")
        more += ["--port", str(SUPERLINK_PORT), "--disable-runtime-dependency-installation"]
        self.start("superlink", ["flower-superlink", *more])
        wait_for_port(SUPERLINK_PORT)
        return self

    def node(
        self, partition: int, of: int, root: Path, key: Path | None = None, name: str = "node"
    ) -> None:
        """A SuperNode that holds `partition` and reads its records below `root`."""
        where = f"partition-id={partition} num-partitions={of} data-root='{root}'"
        more = ["--insecure"]
        if self.tls:
            more = ["--root-certificates", str(self.folder / "ca.crt")]
        if key is not None:
            more += ["--auth-supernode-private-key", str(key)]
        more += ["--superlink", f"127.0.0.1:{SUPERLINK_PORT}", "--node-config", where]
        more += ["--port", str(NODE_PORT + len(self.processes))]
        self.start(f"{name}-{partition}", ["flower-supernode", *more])

    def start(self, name: str, command: list[str]) -> None:
        """A process of its own group, so that what it starts is stopped with it."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes.append(
                subprocess.Popen(
                    command,
                    env=self.env,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    cwd=self.folder,
                )
            )

    def flwr(self, *words: str, seconds: float = 300) -> subprocess.CompletedProcess[str]:
        """One of the `flwr` commands, to its end."""
        return subprocess.run(
            ["flwr", *words],
            env=self.env,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=seconds,
        )

    def log(self, name: str) -> str:
        """What a process has printed so far."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def __exit__(self, *_: object) -> None:
        for process in reversed(self.processes):
            stop_group(process)


def stop_group(process: subprocess.Popen[bytes]) -> None:
    """Stop a process and all it started."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            return
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            continue


def wait_for_port(port: int, seconds: float = 60) -> None:
    """Return once something listens on the loopback port; fails after `seconds`."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(f"nothing listens on port {port}")
