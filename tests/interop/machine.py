# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# A virtual machine for guest.py: QEMU without KVM, the kernel that Debian makes for clouds,
# and busybox. What is not installed is downloaded by apt-get, and unpacked in a folder
# `guest` of the build tree: nothing is installed, and nobody has to be root.

import glob
import lzma
import os
import re
import subprocess
import sys
import tempfile
import threading

from interop import Wrong, children, expect

# What the kernel may have outside of itself; those that they need are found.
MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4")
PROGRAMS = ("qemu-system-x86", "busybox-static")
KERNEL = "linux-image-cloud-amd64"

# A machine that says nothing for so long hangs.
SILENCE = 300


def skip(*why):
    print(*why)
    sys.exit(77)


def _said(*command, cwd=None):
    """What a program says that may fail for lack of a network."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          cwd=cwd)
    if done.returncode != 0:
        print(done.stderr)
        skip(f"the parts of a virtual machine cannot be had: {command[0]} failed, see above")
    return done.stdout


class Parts:
    """Where the programs and the kernel are."""

    def __init__(self):
        self.folder = os.path.join(os.environ["builddir"], "guest")
        root = self.root = os.path.join(self.folder, "root")
        if not os.path.exists(os.path.join(self.folder, "complete")):
            self._fetch()
        self.kernel = self._one("boot/vmlinuz-*")
        found = os.path.join(root, "bin/busybox")
        self.busybox = found if os.path.exists(found) else "/bin/busybox"
        # Those of the folder, or what is installed.
        self.environment = dict(
            os.environ, PATH=f"{root}/usr/bin:{os.environ['PATH']}",
            LD_LIBRARY_PATH=f"{root}/usr/lib/x86_64-linux-gnu:{root}/lib/x86_64-linux-gnu")
        modules = "usr/lib/x86_64-linux-gnu/qemu"
        self.environment["QEMU_MODULE_DIR"] = next(
            (found for found in glob.glob(f"{root}/{modules}")), f"/{modules}")
        self.firmware = [word for folder in ("seabios", "qemu")
                         for word in ("-L", f"{root}/usr/share/{folder}")]

    def _one(self, pattern):
        found = glob.glob(os.path.join(self.root, pattern), recursive=True)
        expect(len(found) == 1, f"{pattern} in {self.root}: {found}")
        return found[0]

    def _fetch(self):
        if _said("dpkg", "--print-architecture").strip() != "amd64":
            skip("the virtual machine is one of amd64, this machine is not")
        os.makedirs(self.root, exist_ok=True)
        apt = ("apt-get", "-q", "-o", "APT::Sandbox::User=root")
        simulated = _said(*apt, "-s", "--no-install-recommends", "install", *PROGRAMS)
        packages = re.findall(r"^Inst (\S+)", simulated, re.M)
        packages += re.findall(r"^  Depends: (\S+)", _said("apt-cache", "depends", KERNEL), re.M)
        print("downloading", *packages, flush=True)
        with tempfile.TemporaryDirectory(dir=self.folder) as place:
            _said(*apt, "download", *packages, cwd=place)
            for package in glob.glob(place + "/*.deb"):
                _said("dpkg-deb", "-x", package, self.root)
        with open(os.path.join(self.folder, "complete"), "w"):
            pass

    def modules(self, *names):
        """name -> its bytes, each behind those that it needs. What is not there the kernel
        has in itself."""
        found = {}
        for name in names:
            paths = [path for path in glob.glob(f"{self.root}/**/lib/modules/**/*.ko*",
                                                recursive=True)
                     if os.path.basename(path).split(".")[0].replace("-", "_") == name]
            if not paths:
                continue
            with open(paths[0], "rb") as file:
                data = file.read()
            data = lzma.decompress(data) if paths[0].endswith(".xz") else data
            [needed] = re.findall(rb"\0depends=([^\0]*)\0", data) or [b""]
            found |= self.modules(*filter(None, needed.decode().replace("-", "_").split(",")))
            found[name] = data
        return found

    def make_initramfs(self, path):
        """guest-init.sh, busybox and the modules."""
        with tempfile.TemporaryDirectory() as place:
            for folder in ("bin", "dev", "disk", "modules", "proc", "sys"):
                os.mkdir(f"{place}/{folder}")
            for name, data in self.modules(*MODULES).items():
                with open(f"{place}/modules/{name}", "wb") as file:
                    file.write(data)
                with open(f"{place}/modules/order", "a") as file:
                    file.write(name + "\n")
            init = os.path.join(os.path.dirname(os.path.abspath(__file__)), "guest-init.sh")
            for source, name in ((self.busybox, "bin/busybox"), (init, "init")):
                with open(source, "rb") as file, open(f"{place}/{name}", "wb") as copy:
                    copy.write(file.read())
                os.chmod(f"{place}/{name}", 0o755)
            names = [os.path.relpath(os.path.join(folder, name), place)
                     for folder, folders, files in os.walk(place) for name in folders + files]
            with open(path, "wb") as archive:
                subprocess.run([self.busybox, "cpio", "-o", "-H", "newc"], cwd=place, check=True,
                               input="".join(f"{name}\n" for name in names).encode(),
                               stdout=archive, stderr=subprocess.DEVNULL)


class Machine:
    """It runs. `drive`: the words of QEMU's command line that give it its disk."""

    def __init__(self, t, parts, initramfs, drive):
        self._changed = threading.Condition()
        self.kept = {}  # worker -> the last step that it said was on the disk
        self.words = []  # all else that it said
        self._console = t.path("console.log")
        self.process = subprocess.Popen(
            [*drive, *parts.firmware, "-m", "256M", "-smp", "2", "-machine", "accel=tcg",
             "-nodefaults", "-no-reboot", "-display", "none", "-kernel", parts.kernel,
             "-initrd", initramfs, "-append", "console=ttyS0 quiet panic=-1",
             "-serial", f"file:{self._console}", "-serial", "stdio"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=parts.environment)
        children.add(self.process)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        for line in self.process.stdout:
            line = line.decode(errors="replace").strip()
            with self._changed:
                kept = re.fullmatch(r"kept (\d+) (\d+)", line)
                if kept:
                    self.kept[int(kept[1])] = int(kept[2])
                elif line:
                    self.words.append(line)
                self._changed.notify_all()
        with self._changed:
            self.words.append("QEMU has ended")
            self._changed.notify_all()

    def wait_for(self, what, is_so):
        """Until it is so. `is_so` looks at `kept` and `words`."""
        with self._changed:
            while not is_so():
                wrong = [word for word in self.words
                         if word.startswith(("failed", "wrong")) or word == "QEMU has ended"]
                if wrong or not self._changed.wait(SILENCE):
                    raise Wrong(f"waiting for '{what}': the machine said {self.words[-20:]}\n"
                                f"{self.console()}")

    def hear(self, pattern):
        """Waits for a line, and takes it."""
        found = []

        def is_there():
            found[:] = [word for word in self.words if re.fullmatch(pattern, word)]
            return bool(found)

        self.wait_for(pattern, is_there)
        with self._changed:
            self.words.remove(found[0])
        return found[0]

    def order(self, word):
        self.process.stdin.write(f"{word}\n".encode())
        self.process.stdin.flush()

    def off(self):
        self.order("stop")
        self.hear("off")
        self.wait_for("QEMU has ended", lambda: "QEMU has ended" in self.words)
        expect(self.process.wait() == 0, f"QEMU: exit status {self.process.returncode}")
        children.discard(self.process)

    def steps(self):
        """worker -> the last step that is known to be on the disk."""
        with self._changed:
            return dict(self.kept)

    def wait_for_steps(self, count):
        """All workers do so many more."""
        was = self.steps()
        self.wait_for(f"{count} steps of each worker", lambda: all(
            self.kept.get(worker, 0) >= was.get(worker, 0) + count for worker in range(1, 6)))

    def console(self):
        try:
            with open(self._console, errors="replace") as file:
                return file.read()[-3000:]
        except OSError:
            return ""
