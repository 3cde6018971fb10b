// Package sgxquote says where the bytes of an SGX quote lie: the one table that the
// verifier reads by, the simulated platform writes by, and the launcher looks into its
// own quote by. It decides nothing and holds nothing but constants.
//
// A quote is, in this order and without padding, all numbers little endian (Intel SGX
// DCAP, ECDSA Quote Library API, appendix A.4):
//
//	header            HeaderLen bytes
//	report body       BodyLen bytes, of the enclave that the quote is about
//	length            4 bytes: of all that follows
//	signature         SigLen bytes, over header and report body, by the attestation key
//	attestation key   KeyLen bytes
//	QE report body    BodyLen bytes, of the quoting enclave
//	QE signature      SigLen bytes, over the QE report body, by the platform's key (PCK)
//	QE auth data      2 bytes of length, then that many
//	certification     2 bytes of type, 4 bytes of length, then that many
//
// What holds the verifier and the simulated platform to hardware, now that they share
// this table, are the real quotes among the verifier's tests.
package sgxquote

// Lengths of the parts, in bytes.
const (
	HeaderLen = 48
	BodyLen   = 384
	SignedLen = HeaderLen + BodyLen // what the attestation key signs
	KeyLen    = 64                  // of P-256, x || y
	SigLen    = 64                  // of P-256, r || s
)

// Offsets in the header (appendix A.4, quote header).
const (
	AtVersion  = 0  // 2 bytes: Version
	AtKeyType  = 2  // 2 bytes: KeyECDSAP256
	AtTEEType  = 4  // 4 bytes: TEESGX; reserved, and zero, before there were others
	AtQESVN    = 8  // 2 bytes
	AtPCESVN   = 10 // 2 bytes
	AtQEVendor = 12 // 16 bytes: QEVendor
	AtUserData = 28 // 20 bytes
)

// Offsets in a report body (appendix A.4, table 5; Intel SDM volume 3D, section 38.15
// "REPORT", table 38-21, of which it is the first 384 bytes). What lies between is
// reserved, or not read by anybody here.
const (
	AtCPUSVN     = 0   // 16 bytes
	AtMiscSelect = 16  // 4 bytes, a number
	AtAttributes = 48  // 8 bytes, a number: the flags below
	AtXFRM       = 56  // 8 bytes, a number: the second half of ATTRIBUTES
	AtMREnclave  = 64  // 32 bytes
	AtMRSigner   = 128 // 32 bytes
	AtConfigID   = 192 // 64 bytes
	AtISVProdID  = 256 // 2 bytes
	AtISVSVN     = 258 // 2 bytes
	AtReportData = 320 // 64 bytes
)

// Values of the header and of the certification data (appendix A.4).
const (
	Version      = 3 // of quotes by SGX enclaves
	KeyECDSAP256 = 2 // type of attestation key
	TEESGX       = 0

	CertEncryptedPPID = 3 // the quote carries no chain
	CertPCKChain      = 5 // PEM: leaf, CA, root
)

// QEVendor is Intel's id as a maker of quoting enclaves.
var QEVendor = [16]byte{0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07}

// Flags in the first byte of the attributes (Intel SDM volume 3D, section 38.7.1
// "ATTRIBUTES", table 38-3).
const (
	AttributeInit         = 0x01
	AttributeDebug        = 0x02
	AttributeMode64       = 0x04
	AttributeProvisionKey = 0x10
)
