import java.io.FileReader;
import java.io.IOException;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.Security;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.util.HashMap;
import java.util.Map;
import javax.net.ssl.KeyManager;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.X509TrustManager;
import org.bouncycastle.asn1.pkcs.PrivateKeyInfo;
import org.bouncycastle.cert.X509CertificateHolder;
import org.bouncycastle.jce.provider.BouncyCastleProvider;
import org.bouncycastle.openssl.PEMKeyPair;
import org.bouncycastle.openssl.PEMParser;
import org.bouncycastle.openssl.jcajce.JcaPEMKeyConverter;
import org.bouncycastle.openssl.jcajce.JcaPEMWriter;
import org.bouncycastle.pkcs.PKCS10CertificationRequest;

/** Files to BouncyCastle's values, and the words of a command line: `--name value`, as often as it likes. */
final class Tools {
    static { Security.addProvider(new BouncyCastleProvider()); }

    static Map<String, String> options(String[] words, int from) {
        Map<String, String> found = new HashMap<>();
        for (int at = from; at + 1 < words.length; at += 2) found.put(words[at].substring(2), words[at + 1]);
        return found;
    }

    static Object pem(String file) throws IOException {
        try (PEMParser parser = new PEMParser(new FileReader(file))) { return parser.readObject(); }
    }

    static PKCS10CertificationRequest request(String file) throws IOException { return (PKCS10CertificationRequest) pem(file); }

    static X509CertificateHolder certificate(String file) throws IOException { return (X509CertificateHolder) pem(file); }

    static PrivateKey key(String file) throws IOException {
        Object read = pem(file);
        JcaPEMKeyConverter converter = new JcaPEMKeyConverter().setProvider("BC");
        return read instanceof PEMKeyPair pair ? converter.getKeyPair(pair).getPrivate() : converter.getPrivateKey((PrivateKeyInfo) read);
    }

    static X509TrustManager[] trust(String file) throws Exception {
        KeyStore store = KeyStore.getInstance("PKCS12");
        store.load(null, null);
        try (var in = Files.newInputStream(Path.of(file))) {
            int number = 0;
            for (Certificate one : CertificateFactory.getInstance("X.509").generateCertificates(in)) store.setCertificateEntry("ca" + number++, one);
        }
        var factory = javax.net.ssl.TrustManagerFactory.getInstance("PKIX");
        factory.init(store);
        return new X509TrustManager[] {(X509TrustManager) factory.getTrustManagers()[0]};
    }

    static KeyManager[] identity(String certificateFile, String keyFile) throws Exception {
        KeyStore store = KeyStore.getInstance("PKCS12");
        store.load(null, null);
        Certificate[] chain;
        try (var in = Files.newInputStream(Path.of(certificateFile))) {
            chain = CertificateFactory.getInstance("X.509").generateCertificates(in).toArray(Certificate[]::new);
        }
        store.setKeyEntry("client", key(keyFile), new char[0], chain);
        KeyManagerFactory factory = KeyManagerFactory.getInstance("PKIX");
        factory.init(store, new char[0]);
        return factory.getKeyManagers();
    }

    static void writePem(String file, Iterable<?> objects) throws IOException {
        try (JcaPEMWriter writer = new JcaPEMWriter(Files.newBufferedWriter(Path.of(file)))) {
            for (Object one : objects) writer.writeObject(one);
        }
    }

    static String server(String url) { return URI.create(url).getAuthority(); }

    private Tools() {}
}
