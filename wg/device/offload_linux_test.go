package device

import (
	"encoding/binary"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/edgeproxy/edgeproxy/wg"
)

// TestOffloads: the interface that we make is handed the large segments that
// the library's own is, and gives as many packets at once.
func TestOffloads(t *testing.T) {
	needsNetns(t)
	ours, err := createTUN(testInterface(20), wg.MTU)
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	theirs, err := tun.CreateTUN(testInterface(21), wg.MTU)
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	if got, want := ours.BatchSize(), theirs.BatchSize(); got != want || got < 2 {
		t.Errorf("batches of %d, want %d", got, want)
	}
	if got, want := features(t, testInterface(20)), features(t, testInterface(21)); got != want {
		t.Errorf("features %#x, want %#x", got, want)
	}
	if features(t, testInterface(20))&tsoFeature == 0 {
		t.Error("no segmentation offload")
	}
}

const tsoFeature = 1 << 16 // NETIF_F_TSO_BIT, of include/linux/netdev_features.h

// features are the first 64 active ones of an interface, see struct
// ethtool_gfeatures of include/uapi/linux/ethtool.h.
func features(t testing.TB, name string) uint64 {
	t.Helper()
	const command, blocks = 0x3a, 4 // ETHTOOL_GFEATURES
	answer := make([]byte, 8+16*blocks)
	binary.NativeEndian.PutUint32(answer, command)
	binary.NativeEndian.PutUint32(answer[4:], blocks)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&answer[0])}
	copy(request.name[:], name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		t.Fatalf("ask for the features of %s: %v", name, errno)
	}
	active := func(block int) uint64 { return uint64(binary.NativeEndian.Uint32(answer[8+16*block+8:])) }
	return active(0) | active(1)<<32
}
