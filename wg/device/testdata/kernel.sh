#!/bin/sh
# Runs the tests of real interfaces in a virtual machine whose kernel has
# WireGuard, for machines whose own has none. From the top of the repository:
#
#	sh wg/device/testdata/kernel.sh            # the tests of package device
#	sh wg/device/testdata/kernel.sh script.sh  # that instead, with edgeproxy in its path
#
# KERNEL is the version of one in /boot with its modules in /lib/modules (by
# default the last there), ROOT where those lie if a package was only unpacked
# (dpkg-deb -x, depmod -b), APPEND for its command line, RUN which tests. It
# emulates the processor: give it a minute. It installs nothing, and says what
# is missing. Its status is the tests', or 1 if it has not come that far.
set -eu
missing=
for t in qemu-system-x86_64 busybox ip wg ping xz cpio gzip modprobe ldd go; do
	command -v $t >/dev/null || missing="$missing $t"
done
ROOT=${ROOT:-}
KERNEL=${KERNEL:-$(ls "$ROOT/lib/modules" 2>/dev/null | tail -1)}
[ -r "$ROOT/boot/vmlinuz-$KERNEL" ] || missing="$missing $ROOT/boot/vmlinuz-$KERNEL"
if [ -n "$missing" ]; then
	echo "missing:$missing" >&2
	echo "on Debian: apt-get install qemu-system-x86 busybox iproute2 wireguard-tools iputils-ping cpio xz-utils kmod linux-image-amd64" >&2
	exit 1
fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
root=$dir/root
mkdir -p "$root/bin" "$root/dev" "$root/proc" "$root/sys" "$root/run" "$root/tmp" "$root/etc" "$root/modules"

CGO_ENABLED=0 go test -c -o "$root/bin/device.test" ./wg/device
cat >"$root/script.sh" <<-END
	EDGEPROXY_TEST=netns device.test -test.v -test.run '${RUN:-TUN|Kernel|LinkWatch|Foreign|Tunnels}'
END
if [ $# -gt 0 ]; then
	CGO_ENABLED=0 go build -o "$root/bin/edgeproxy" ./cmd/edgeproxy
	cp "$1" "$root/script.sh"
fi
for t in busybox ip wg ping; do
	cp -L "$(command -v $t)" "$root/bin/"
	ldd "$(command -v $t)" | grep -o '/[^ ]*' | while read -r library; do
		mkdir -p "$root${library%/*}"
		cp -L "$library" "$root$library"
	done || : # or it is static
done
# In the order in which they need each other; what is built in is none.
for m in wireguard tun veth bridge dummy; do
	modprobe -d "$ROOT/" -S "$KERNEL" -D $m | awk '$1 == "insmod" { print $2 }'
done | awk '!seen[$0]++' | while read -r module; do
	name=$(basename "$module" .xz)
	case $module in
	*.xz) xz -dc "$module" >"$root/modules/$name" ;;
	*) cp "$module" "$root/modules/$name" ;;
	esac
	echo "insmod /modules/$name" >>"$root/modules/load"
done
cat >"$root/init" <<'END'
#!/bin/busybox sh
/bin/busybox --install -s /bin/
export PATH=/bin HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /var && mount -t devpts devpts /dev/pts
for d in /run /tmp; do mount -t tmpfs tmpfs $d; done
ln -s /run /var/run
. /modules/load
ip link set lo up
sh /script.sh 2>&1
echo "script ended with $?"
poweroff -f
END
chmod +x "$root/init"
(cd "$root" && find . | cpio -o -H newc 2>/dev/null | gzip -1) >"$dir/initrd"
qemu-system-x86_64 -cpu max -m 1024 -vga none -display none -serial stdio -no-reboot -nic none -kernel "$ROOT/boot/vmlinuz-$KERNEL" -initrd "$dir/initrd" \
	-append "console=ttyS0 panic=-1 quiet ${APPEND:-}" </dev/null | tee "$dir/console"
exit "$(tr -d '\r' <"$dir/console" | sed -n 's/^script ended with //p' | grep . || echo 1)"
