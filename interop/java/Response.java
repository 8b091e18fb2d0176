import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.PrivateKey;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import org.bouncycastle.asn1.ASN1Encodable;
import org.bouncycastle.asn1.ASN1Integer;
import org.bouncycastle.asn1.ASN1ObjectIdentifier;
import org.bouncycastle.asn1.ASN1OctetString;
import org.bouncycastle.asn1.ASN1Sequence;
import org.bouncycastle.asn1.cmc.CMCObjectIdentifiers;
import org.bouncycastle.asn1.cmc.CMCStatusInfoV2;
import org.bouncycastle.asn1.cmc.EncryptedPOP;
import org.bouncycastle.asn1.cmc.OtherStatusInfo;
import org.bouncycastle.asn1.cmc.PKIResponse;
import org.bouncycastle.asn1.cmc.PendInfo;
import org.bouncycastle.asn1.cmc.TaggedAttribute;
import org.bouncycastle.asn1.cmc.TaggedRequest;
import org.bouncycastle.asn1.crmf.CertReqMsg;
import org.bouncycastle.cert.X509CertificateHolder;
import org.bouncycastle.cms.CMSEnvelopedData;
import org.bouncycastle.cms.CMSSignedData;
import org.bouncycastle.cms.RecipientInformation;
import org.bouncycastle.cms.SignerInformation;
import org.bouncycastle.cms.jcajce.JcaSimpleSignerInfoVerifierBuilder;
import org.bouncycastle.cms.jcajce.JceKeyTransEnvelopedRecipient;
import org.bouncycastle.util.encoders.Hex;

/** A CMC response, a line for each thing that it says: java Response FILE [--out CERTIFICATES]. Exits with 1 when a signature is wrong. */
public final class Response {
    private static final Map<ASN1ObjectIdentifier, String> NAMES = Map.of(
        CMCObjectIdentifiers.id_cmc_transactionId, "transactionId",
        CMCObjectIdentifiers.id_cmc_senderNonce, "senderNonce",
        CMCObjectIdentifiers.id_cmc_recipientNonce, "recipientNonce",
        CMCObjectIdentifiers.id_cmc_statusInfoV2, "statusInfoV2",
        CMCObjectIdentifiers.id_cmc_encryptedPOP, "encryptedPOP",
        CMCObjectIdentifiers.id_cmc_responseInfo, "responseInfo");
    private static final List<String> STATUS =
        List.of("success", "-", "failed", "pending", "noSupport", "confirmRequired", "popRequired", "partial");

    public static void main(String[] words) throws Exception {
        Map<String, String> given = Tools.options(words, 1);
        CMSSignedData message = new CMSSignedData(Files.readAllBytes(Path.of(words[0])));
        System.out.println("content " + message.getSignedContentTypeOID());
        boolean right = signatures(message);
        if (message.getSignedContent() != null) for (TaggedAttribute each : controls(content(message))) System.out.println(line(each));
        List<X509CertificateHolder> certificates = new ArrayList<>(message.getCertificates().getMatches(null));
        for (X509CertificateHolder each : certificates)
            System.out.println("certificate " + each.getSubject() + " " + each.getSerialNumber().toString(16));
        System.out.println("crls " + message.getCRLs().getMatches(null).size());
        if (given.containsKey("out")) Tools.writePem(given.get("out"), certificates);
        System.exit(right ? 0 : 1);
    }

    private static boolean signatures(CMSSignedData message) throws Exception {
        boolean right = true;
        for (SignerInformation signer : message.getSignerInfos().getSigners()) {
            @SuppressWarnings("unchecked")
            var found = new ArrayList<X509CertificateHolder>(message.getCertificates().getMatches(signer.getSID()));
            boolean valid = found.size() == 1 && signer.verify(new JcaSimpleSignerInfoVerifierBuilder().setProvider("BC").build(found.get(0)));
            System.out.println("signer " + (found.isEmpty() ? "unknown" : found.get(0).getSubject()) + (valid ? " valid" : " INVALID"));
            right &= valid;
        }
        return right;
    }

    static PKIResponse read(String file) throws Exception { return content(new CMSSignedData(Files.readAllBytes(Path.of(file)))); }

    private static PKIResponse content(CMSSignedData message) { return PKIResponse.getInstance((byte[]) message.getSignedContent().getContent()); }

    static List<TaggedAttribute> controls(PKIResponse response) {
        return Arrays.stream(response.getControlSequence().toArray()).map(TaggedAttribute::getInstance).toList();
    }

    static ASN1Encodable value(PKIResponse response, ASN1ObjectIdentifier type) {
        return controls(response).stream().filter(each -> each.getAttrType().equals(type)).findFirst().orElseThrow().getAttrValues().getObjectAt(0);
    }

    private static String line(TaggedAttribute control) {
        ASN1Encodable value = control.getAttrValues().getObjectAt(0);
        String name = NAMES.getOrDefault(control.getAttrType(), control.getAttrType().getId());
        return switch (name) {
            case "transactionId" -> name + " " + ASN1Integer.getInstance(value).getValue();
            case "senderNonce", "recipientNonce" -> name + " " + Hex.toHexString(ASN1OctetString.getInstance(value).getOctets());
            case "statusInfoV2" -> status(CMCStatusInfoV2.getInstance(value));
            default -> name;
        };
    }

    private static String status(CMCStatusInfoV2 info) {
        int number = ASN1Integer.getInstance(info.getcMCStatus().toASN1Primitive()).intValueExact();
        String parts = Arrays.stream(info.getBodyList()).map(each -> Long.toString(each.getID())).collect(Collectors.joining(","));
        String text = info.getStatusStringUTF8() == null ? "" : " " + info.getStatusStringUTF8().getString();
        return "status " + STATUS.get(number) + " " + parts + (info.hasOtherInfo() ? other(info.getOtherStatusInfo()) : "") + text;
    }

    private static String other(OtherStatusInfo info) {
        if (info.isFailInfo()) return " failInfo=" + ASN1Integer.getInstance(info.toASN1Primitive()).intValueExact();
        if (!info.isPendingInfo()) return " extendedFailInfo";
        PendInfo pending = PendInfo.getInstance(info.toASN1Primitive());
        return " token=" + Hex.toHexString(pending.getPendToken()) + " at=" + pending.getPendTime().getTime();
    }

    static long bodyPart(TaggedRequest request) throws IOException {
        if (request.getTagNo() == TaggedRequest.CRM)
            return CertReqMsg.getInstance(request.getValue()).getCertReq().getCertReqId().longValueExact();
        return ASN1Integer.getInstance(ASN1Sequence.getInstance(request.getValue().toASN1Primitive()).getObjectAt(0)).longValueExact();
    }

    static byte[] decrypted(EncryptedPOP asked, PrivateKey key) throws Exception {
        RecipientInformation recipient = new CMSEnvelopedData(asked.getCms()).getRecipientInfos().getRecipients().iterator().next();
        byte[] proof = recipient.getContent(new JceKeyTransEnvelopedRecipient(key).setProvider("BC"));
        if (!Arrays.equals(PkiData.digest(proof), asked.getWitness())) throw new IllegalStateException("the witness is of another value");
        return proof;
    }
}
