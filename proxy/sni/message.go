package sni

// Extensions that are looked into.
const (
	extensionServerName = 0  // RFC 6066, 3
	extensionALPN       = 16 // RFC 7301, 3.1

	nameHost = 0
)

// cursor takes vectors, as RFC 8446, 3.4 has them, off the beginning of b.
type cursor []byte

func (c *cursor) skip(n int) bool {
	if len(*c) < n {
		return false
	}
	*c = (*c)[n:]
	return true
}

func (c *cursor) take(n int) ([]byte, bool) {
	b := *c
	if !c.skip(n) {
		return nil, false
	}
	return b[:n], true
}

func (c *cursor) uint16() (int, bool) {
	b, ok := c.take(2)
	if !ok {
		return 0, false
	}
	return int(b[0])<<8 | int(b[1]), true
}

func (c *cursor) vector8() ([]byte, bool) {
	n, ok := c.take(1)
	if !ok {
		return nil, false
	}
	return c.take(int(n[0]))
}

func (c *cursor) vector16() ([]byte, bool) {
	n, ok := c.uint16()
	if !ok {
		return nil, false
	}
	return c.take(n)
}

// parseMessage reads the body of a ClientHello (RFC 8446, 4.1.2). It must end
// where its last vector does: what two readers could read in two ways would
// let a client be routed by one name and served by another.
func parseMessage(b []byte) (hello Hello, err error) {
	c := cursor(b)
	if !c.skip(2 + 32) { // version and random
		return hello, errLengths
	}
	if id, ok := c.vector8(); !ok || len(id) > 32 {
		return hello, errLengths
	}
	if suites, ok := c.vector16(); !ok || len(suites)%2 != 0 {
		return hello, errLengths
	}
	if _, ok := c.vector8(); !ok { // compression
		return hello, errLengths
	}
	if len(c) == 0 {
		return hello, nil // before TLS 1.2 there need not be extensions
	}
	extensions, ok := c.vector16()
	if !ok || len(c) > 0 {
		return hello, errLengths
	}
	return parseExtensions(extensions)
}

func parseExtensions(c cursor) (hello Hello, err error) {
	var named, offered bool
	for len(c) > 0 {
		kind, ok := c.uint16()
		if !ok {
			return Hello{}, errLengths
		}
		body, ok := c.vector16()
		if !ok {
			return Hello{}, errLengths
		}
		switch kind { // others, those of GREASE (RFC 8701) too, are the backend's business
		case extensionServerName:
			if named {
				return Hello{}, errTwice
			}
			named = true
			hello.Name, err = parseServerName(body)
		case extensionALPN:
			if offered {
				return Hello{}, errTwice
			}
			offered = true
			hello.ALPN, err = parseProtocols(body)
		}
		if err != nil {
			return Hello{}, err
		}
	}
	return hello, nil
}

// parseServerName returns the one host name in the list. Other types of names
// have never been defined; they are passed over as crypto/tls does.
func parseServerName(body cursor) (name string, err error) {
	list, ok := body.vector16()
	if !ok || len(body) > 0 {
		return "", errLengths
	}
	if len(list) == 0 {
		return "", errServerNames
	}
	found := false
	for c := cursor(list); len(c) > 0; {
		kind, ok := c.take(1)
		if !ok {
			return "", errLengths
		}
		host, ok := c.vector16()
		if !ok {
			return "", errLengths
		}
		if kind[0] != nameHost {
			continue
		}
		if found || len(host) == 0 {
			return "", errServerNames
		}
		found = true
		if name, err = hostName(host); err != nil {
			return "", err
		}
	}
	return name, nil
}

func parseProtocols(body cursor) ([]byte, error) {
	list, ok := body.vector16()
	if !ok || len(body) > 0 {
		return nil, errLengths
	}
	if len(list) == 0 {
		return nil, errProtocols
	}
	for c := cursor(list); len(c) > 0; {
		one, ok := c.vector8()
		if !ok {
			return nil, errLengths
		}
		if len(one) == 0 {
			return nil, errProtocols
		}
	}
	return list, nil
}
