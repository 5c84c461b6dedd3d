// Go's crypto/tls as a peer; scripted.py tells how it is spoken to.
package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
)

type Terms struct {
	Version     string
	CA          string
	Certificate string
	ALPN        []string

	// A server's
	OtherName        string `json:"other_name"`
	OtherCertificate string `json:"other_certificate"`
	AsksCertificate  bool   `json:"asks_certificate"`

	// A client's
	Port      int
	Name      string
	Resumes   bool
	EndsFirst bool `json:"ends_first"`
}

var versions = map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}

func check(err error) {
	if err != nil {
		tell("error", err.Error())
		os.Exit(1)
	}
}

func tell(key string, value any) { tellAll(map[string]any{key: value}) }

func tellAll(facts map[string]any) {
	line, err := json.Marshal(facts)
	if err != nil {
		panic(err)
	}
	fmt.Printf("%s\n", line)
}

func tellFacts(conn *tls.Conn) {
	state := conn.ConnectionState()
	var certificate any
	if len(state.PeerCertificates) > 0 {
		certificate = state.PeerCertificates[0].Subject.CommonName
	}
	tellAll(map[string]any{
		"resumed":     state.DidResume,
		"alpn":        state.NegotiatedProtocol,
		"name":        state.ServerName,
		"certificate": certificate,
	})
}

func pair(file string) *tls.Certificate {
	certificate, err := tls.LoadX509KeyPair(file, file)
	check(err)
	return &certificate
}

func configFor(terms Terms) *tls.Config {
	pem, err := os.ReadFile(terms.CA)
	check(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	version := versions[terms.Version]
	return &tls.Config{
		RootCAs: roots, ClientCAs: roots,
		MinVersion: version, MaxVersion: version,
		NextProtos: terms.ALPN,
	}
}

func serve(terms Terms) {
	config := configFor(terms)
	config.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if hello.ServerName == terms.OtherName {
			return pair(terms.OtherCertificate), nil
		}
		return pair(terms.Certificate), nil
	}
	if terms.AsksCertificate {
		config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
	check(err)
	tell("port", listener.Addr().(*net.TCPAddr).Port)
	for {
		conn, err := listener.Accept()
		check(err)
		go answer(conn.(*tls.Conn))
	}
}

func answer(conn *tls.Conn) {
	defer conn.Close()
	if err := conn.Handshake(); err != nil {
		tell("error", err.Error())
		return
	}
	tellFacts(conn)
	lines := bufio.NewReader(conn)
	for {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF { // it was a close_notify: without one it is io.ErrUnexpectedEOF
			return
		} else if err != nil {
			tell("error", err.Error())
			return
		}
		conn.Write(bytes.ToUpper(line))
	}
}

func connect(terms Terms, config *tls.Config) *tls.Conn {
	conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", terms.Port), config)
	check(err)
	tellFacts(conn)
	_, err = conn.Write([]byte("hello\n"))
	check(err)
	return conn
}

func talk(terms Terms) {
	config := configFor(terms)
	config.ServerName = terms.Name
	config.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	if terms.Certificate != "" {
		config.Certificates = []tls.Certificate{*pair(terms.Certificate)}
	}
	if terms.Resumes {
		conn := connect(terms, config)
		_, err := bufio.NewReader(conn).ReadBytes('\n')
		check(err)
		conn.Close()
	}
	conn := connect(terms, config)
	if terms.EndsFirst {
		check(conn.CloseWrite())
	}
	told := make(chan bool)
	go func() {
		lines := bufio.NewReader(conn)
		for {
			line, err := lines.ReadString('\n')
			if err == io.EOF {
				tell("ended", true)
				close(told)
				return
			}
			check(err)
			tell("answer", line)
		}
	}()
	io.Copy(io.Discard, os.Stdin)
	check(conn.CloseWrite())
	<-told
	conn.Close()
}

func main() {
	var terms Terms
	check(json.Unmarshal([]byte(os.Args[2]), &terms))
	if os.Args[1] == "server" {
		serve(terms)
	} else {
		talk(terms)
	}
}
