"""An app that tries every road from its own instance to the secrets of another
session, whose app runs in the very same image.

Each attempt prints one line, "ATTEMPT " and JSON: its name, what it got (None:
nothing) and how it was refused. Then the app listens, as a healthy one does.
"""

import ctypes
import http.client
import json
import os
import signal
import socket
import ssl
import stat
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(HERE, "target.json")) as f:
    TARGET = json.load(f)
STRANGER = os.path.join(HERE, "stranger.pem")
APP = ("/run/cupel/tls/cert.pem", "/run/cupel/tls/key.pem")
LIBC = ctypes.CDLL(None, use_errno=True)


def attempt(name, road):
    try:
        got, refusal = road()
    except Exception as e:  # whatever went wrong, the road led nowhere
        got, refusal = None, type(e).__name__ + ": " + str(e)
    print("ATTEMPT", json.dumps({"name": name, "got": got, "refusal": refusal}), flush=True)


def post(path, body, certificate=None, port=TARGET["instances"], method="POST"):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificate:
        context.load_cert_chain(*certificate)
    c = http.client.HTTPSConnection(TARGET["host"], port, context=context, timeout=20)
    c.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
    answer = c.getresponse()
    text = answer.read().decode(errors="replace")
    if answer.status == 200:
        return text[:2000], ""
    return None, json.loads(text)["rule"]


def release(evidence, service, certificate, grant=TARGET["grant"]):
    body = {"version": TARGET["version"], "session": TARGET["session"], "service": service, "evidence": evidence}
    if grant:
        body["grant"] = grant
    return lambda: post("/v1/release", body, certificate)


def read(path):
    def road():
        with open(path, "rb") as f:
            return repr(f.read(200)), ""

    return road


def every_socket():
    """Connects to every Unix socket that a path or a name leads to."""
    found, kinds = [], []
    for top, dirs, files in os.walk("/"):
        if top == "/":
            dirs[:] = [d for d in dirs if d not in ("proc", "sys")]
        for name in files:
            path = os.path.join(top, name)
            try:
                if stat.S_ISSOCK(os.lstat(path).st_mode):
                    found.append(path)
            except OSError:
                pass
    for root in ("", "/proc/1/root", "/proc/self/root/..", "/proc/1/cwd"):
        found += [root + "/run/cupel/" + name for name in ("las.sock", "node.sock")]
    with open("/proc/net/unix") as f:
        for line in list(f)[1:]:
            fields = line.split()
            if len(fields) > 7:
                found.append("\0" + fields[7][1:] if fields[7].startswith("@") else fields[7])
    for address in found:
        s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        s.settimeout(5)
        try:
            s.connect(address)
        except OSError as e:
            kinds.append(type(e).__name__)
            continue
        return "connected to " + repr(address), ""
    return None, ", ".join(sorted(set(kinds)))


def inherited():
    """Looks for descriptors that the launcher left open."""
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink("/proc/self/fd/" + fd)
        except OSError:
            continue
        if int(fd) > 2 and (target.startswith("socket:") or "cupel" in target and HERE not in target):
            return target, ""
    return None, "none"


def syscall(function, *args):
    def road():
        if getattr(LIBC, function)(*args) == -1:
            return None, os.strerror(ctypes.get_errno())
        return function + " succeeded", ""

    return road


class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def launcher_memory():
    buffer = ctypes.create_string_buffer(64)
    here = Vector(ctypes.cast(buffer, ctypes.c_void_p), 64)
    there = Vector(ctypes.c_void_p(0x400000), 64)
    if LIBC.process_vm_readv(1, ctypes.byref(here), 1, ctypes.byref(there), 1, 0) > 0:
        return repr(buffer.raw), ""
    return None, os.strerror(ctypes.get_errno())


def another_launcher():
    """Runs the launcher again, with the config id of the other session."""
    env = {
        "CUPEL_CAS_ADDR": TARGET["host"] + ":" + str(TARGET["instances"]),
        "CUPEL_LAS_ADDR": "unix:/run/cupel/las.sock",
        "CUPEL_CONFIG_ID": TARGET["session"] + "/client-app",
    }
    refusals = []
    for program in ("/cupel-init", "/proc/1/exe"):
        try:
            r = subprocess.run([program, "run", "--", "/bin/sh", "-c", "id"], env=env, capture_output=True, timeout=30)
        except OSError as e:
            refusals.append(type(e).__name__)
            continue
        if r.returncode == 0:
            return repr(r.stdout), ""
        refusals.append(r.stderr.decode(errors="replace").strip())
    return None, "; ".join(refusals)


def main():
    x = TARGET["own"]
    for service, y in TARGET["captured"].items():
        attempt("release without a key, " + service, release(y, service, None))
        attempt("release with a stranger's key, " + service, release(y, service, (STRANGER,)))
        attempt("release with the app's key, " + service, release(y, service, APP))
        attempt("release with own evidence, " + service, release(x, service, APP))
    own = TARGET["captured"]["client-app"]
    attempt("release without a grant", release(own, "client-app", APP, None))
    attempt("release with a grant that was made up", release(own, "client-app", APP, TARGET["grant"][:-1] + ("B" if TARGET["grant"].endswith("A") else "A")))
    attempt("release without evidence", release({"type": "sgx", "quote": "", "endorsements": None}, "client-app", APP))
    attempt("release with an edited quote", release(dict(TARGET["captured"]["client-app"], quote=TARGET["edited"]), "client-app", APP))
    attempt("commit a volume", lambda: post("/v1/tag", TARGET["tag"], APP))
    attempt("keep an instance alive", lambda: post("/v1/keepalive", {"version": 1}, APP))
    attempt("end an instance", lambda: post("/v1/exit", {"version": 1, "code": 0}, APP))
    attempt("read the session at the instances' API", lambda: post("/v1/sessions/" + TARGET["session"], None, APP, method="GET"))
    attempt("read the session at the owners' API", lambda: post("/v1/sessions/" + TARGET["session"], None, APP, TARGET["owners"], "GET"))
    attempt("sockets", every_socket)
    attempt("descriptors", inherited)
    for name in ("environ", "mem", "maps", "auxv", "stack", "syscall", "root/run/cupel", "fd/3", "task/1/environ"):
        attempt("/proc/1/" + name, read("/proc/1/" + name))
    attempt("list the launcher's descriptors", lambda: (repr(os.listdir("/proc/1/fd")), ""))
    attempt("list the launcher's root", lambda: (repr(os.listdir("/proc/1/root")), ""))
    attempt("trace the launcher", syscall("ptrace", 16, 1, 0, 0))
    attempt("read the launcher's memory", launcher_memory)
    attempt("signal the launcher", lambda: (os.kill(1, signal.SIGUSR1) or "signalled", ""))
    attempt("become root", lambda: (os.setuid(0) or "root", ""))
    attempt("user namespace", syscall("unshare", 0x10000000))
    attempt("mount", syscall("mount", b"none", b"/tmp", b"tmpfs", 0, None))
    attempt("launch again", another_launcher)
    print("ATTEMPTS DONE", flush=True)
    listener = socket.create_server(("0.0.0.0", 8080))
    while True:
        listener.accept()[0].close()


main()
