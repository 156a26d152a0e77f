//! Certificate templates, and Intel's SGX extension of the PCK certificate.
//!
//! The extension follows Intel's "SGX PCK Certificate and Certificate Revocation List Profile
//! Specification": OID 1.2.840.113741.1.13.1 with PPID (.1), TCB (.2), PCEID (.3), FMSPC (.4),
//! SGX type (.5), platform instance id (.6) and configuration (.7).

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, IsCa,
    KeyUsagePurpose, SerialNumber,
};
use time::OffsetDateTime;
use yasna::DERWriterSeq;
use yasna::models::ObjectIdentifier;

use crate::root::Machine;
use crate::{FMSPC, SimulatorError};

/// 2020-01-01, before anything the tests look at.
const NOT_BEFORE: u64 = 1_577_836_800;
/// 2100-01-01. Certificates of the simulated root do not expire in practice; collateral does.
const NOT_AFTER: u64 = 4_102_444_800;

const SGX_EXTENSION: [u64; 7] = [1, 2, 840, 113_741, 1, 13, 1];

pub(crate) fn date(unix_seconds: u64) -> Result<OffsetDateTime, SimulatorError> {
    i64::try_from(unix_seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .ok_or(SimulatorError::Time { unix_seconds })
}

fn named(name: &str, serial: u64) -> Result<CertificateParams, SimulatorError> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from(serial));
    params.not_before = date(NOT_BEFORE)?;
    params.not_after = date(NOT_AFTER)?;
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

pub(crate) fn authority(name: &str, serial: u64) -> Result<CertificateParams, SimulatorError> {
    let mut params = named(name, serial)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

pub(crate) fn leaf(name: &str, serial: u64) -> Result<CertificateParams, SimulatorError> {
    let mut params = named(name, serial)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    Ok(params)
}

fn oid(suffix: &[u64]) -> ObjectIdentifier {
    let mut arcs = SGX_EXTENSION.to_vec();
    arcs.extend_from_slice(suffix);
    ObjectIdentifier::from_slice(&arcs)
}

fn octets(to: &mut DERWriterSeq<'_>, suffix: &[u64], value: &[u8]) {
    to.next().write_sequence(|pair| {
        pair.next().write_oid(&oid(suffix));
        pair.next().write_bytes(value);
    });
}

fn tcb(to: &mut DERWriterSeq<'_>, machine: &Machine) {
    for (component, svn) in (1..).zip(machine.cpu_svn) {
        to.next().write_sequence(|pair| {
            pair.next().write_oid(&oid(&[2, component]));
            pair.next().write_u8(svn);
        });
    }
    to.next().write_sequence(|pair| {
        pair.next().write_oid(&oid(&[2, 17]));
        pair.next().write_u16(machine.pce_svn);
    });
    octets(to, &[2, 18], &machine.cpu_svn);
}

/// The extension of `machine`'s PCK certificate, as a multi-package cloud platform shows it:
/// dynamic platform, cached keys and SMT all true, which strict policies have to allow knowingly.
pub(crate) fn sgx_extension(machine: &Machine) -> CustomExtension {
    let content = yasna::construct_der(|writer| {
        writer.write_sequence(|to| {
            octets(to, &[1], &machine.ppid);
            to.next().write_sequence(|pair| {
                pair.next().write_oid(&oid(&[2]));
                pair.next()
                    .write_sequence(|components| tcb(components, machine));
            });
            octets(to, &[3], &[0, 0]);
            octets(to, &[4], &FMSPC);
            to.next().write_sequence(|pair| {
                pair.next().write_oid(&oid(&[5]));
                pair.next().write_enum(1);
            });
            octets(to, &[6], &machine.platform_instance);
            to.next().write_sequence(|pair| {
                pair.next().write_oid(&oid(&[7]));
                pair.next().write_sequence(|flags| {
                    for flag in 1..=3 {
                        flags.next().write_sequence(|pair| {
                            pair.next().write_oid(&oid(&[7, flag]));
                            pair.next().write_bool(true);
                        });
                    }
                });
            });
        });
    });
    CustomExtension::from_oid_content(&SGX_EXTENSION, content)
}
