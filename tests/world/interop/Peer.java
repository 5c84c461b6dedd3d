// Java's JSSE as a peer; scripted.py tells how it is spoken to, java.py how its terms are.

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.Socket;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SNIHostName;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.SSLPeerUnverifiedException;
import javax.net.ssl.SSLServerSocket;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManagerFactory;

public class Peer {
    private static final Map<String, String> TERMS = new HashMap<>();

    public static void main(String[] arguments) throws Exception {
        for (String argument : Arrays.asList(arguments).subList(1, arguments.length)) {
            String[] term = argument.split("=", 2);
            TERMS.put(term[0], term[1]);
        }
        if (arguments[0].equals("server")) {
            serve();
        } else {
            talk();
        }
    }

    private static synchronized void tell(String key, Object value) {
        System.out.println("{\"" + key + "\":" + value + "}");
    }

    private static String quoted(String text) {
        return "\"" + text.strip() + "\"";
    }

    private static void tellFacts(SSLSocket socket) {
        tell("alpn", quoted(socket.getApplicationProtocol()));
        try {
            String subject = socket.getSession().getPeerPrincipal().getName();
            for (String part : subject.split(",")) {
                if (part.startsWith("CN=")) {
                    tell("certificate", quoted(part.substring(3)));
                }
            }
        } catch (SSLPeerUnverifiedException noCertificate) {
            tell("certificate", null);
        }
    }

    private static SSLContext context() throws Exception {
        char[] password = TERMS.get("password").toCharArray();
        KeyStore pairs = KeyStore.getInstance("PKCS12");
        pairs.load(null, null);
        if (!TERMS.get("certificate").isEmpty()) {
            pairs = KeyStore.getInstance(Path.of(TERMS.get("certificate")).toFile(), password);
        }
        KeyManagerFactory keys = KeyManagerFactory.getInstance("NewSunX509");
        keys.init(pairs, password);

        KeyStore authorities = KeyStore.getInstance("PKCS12");
        authorities.load(null, null);
        try (InputStream pem = Files.newInputStream(Path.of(TERMS.get("ca")))) {
            authorities.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(pem));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance("PKIX");
        trust.init(authorities);

        SSLContext context = SSLContext.getInstance("TLS");
        context.init(keys.getKeyManagers(), trust.getTrustManagers(), null);
        return context;
    }

    private static void configure(SSLParameters parameters) {
        parameters.setProtocols(new String[] {"TLSv" + TERMS.get("version")});
        parameters.setApplicationProtocols(TERMS.get("alpn").split(","));
    }

    private static void serve() throws Exception {
        SSLServerSocket listener = (SSLServerSocket) context()
            .getServerSocketFactory()
            .createServerSocket(0, 50, InetAddress.getLoopbackAddress());
        SSLParameters parameters = listener.getSSLParameters();
        configure(parameters);
        parameters.setNeedClientAuth(TERMS.get("asks_certificate").equals("True"));
        listener.setSSLParameters(parameters);
        tell("port", listener.getLocalPort());
        while (true) {
            SSLSocket socket = (SSLSocket) listener.accept();
            new Thread(() -> answer(socket)).start();
        }
    }

    private static void answer(SSLSocket socket) {
        try (socket) {
            socket.startHandshake();
            tellFacts(socket);
            byte[] data = new byte[4096];
            for (int size; (size = socket.getInputStream().read(data)) >= 0; ) {
                socket.getOutputStream().write(new String(data, 0, size).toUpperCase().getBytes());
            }
        } catch (IOException error) {
            tell("error", quoted(error.toString()));
        }
    }

    private static void talk() throws Exception {
        SSLContext context = context();
        if (TERMS.get("resumes").equals("True")) {
            try (SSLSocket socket = connect(context)) {
                tell("answer", quoted(new BufferedReader(new InputStreamReader(socket.getInputStream())).readLine()));
            }
        }
        try (SSLSocket socket = connect(context)) {
            if (TERMS.get("ends_first").equals("True")) {
                socket.shutdownOutput();
            }
            BufferedReader lines = new BufferedReader(new InputStreamReader(socket.getInputStream()));
            tell("answer", quoted(lines.readLine()));
            System.in.readAllBytes();
            if (!socket.isOutputShutdown()) {
                socket.shutdownOutput();
            }
            tell("ended", lines.readLine() == null);
        }
    }

    private static SSLSocket connect(SSLContext context) throws Exception {
        int port = Integer.parseInt(TERMS.get("port"));
        Socket transport = new Socket(InetAddress.getLoopbackAddress(), port);
        SSLSocket socket = (SSLSocket) context.getSocketFactory().createSocket(transport, TERMS.get("name"), port, true);
        SSLParameters parameters = socket.getSSLParameters();
        configure(parameters);
        parameters.setServerNames(List.of(new SNIHostName(TERMS.get("name"))));
        parameters.setEndpointIdentificationAlgorithm("HTTPS");
        socket.setSSLParameters(parameters);
        socket.startHandshake();
        tellFacts(socket);
        socket.getOutputStream().write("hello\n".getBytes());
        return socket;
    }
}
