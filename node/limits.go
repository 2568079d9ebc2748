package node

import (
	"runtime"
	"syscall"
)

// maxConnections is how many client connections may be open: as many as were
// asked for (0: no matter) and fit into the descriptors of this process, two
// each, with some left for the services' listeners, the API, the database and
// whatever else must go on when clients have taken the rest. Go raises the
// soft limit to the hard one at start.
func maxConnections(asked, listeners int) int {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		return asked
	}
	total := min(uint64(limit.Cur), 1<<30)
	const perWorker = 3 // a listener, its epoll and what wakes it
	reserve := min(512+uint64(listeners*(1+perWorker*runtime.GOMAXPROCS(0))), total/4)
	most := int(max((total-reserve)/2, 1))
	if asked > 0 && asked < most {
		return asked
	}
	return most
}
