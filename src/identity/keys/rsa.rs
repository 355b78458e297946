//! The numbers of RSA keys: which are strong enough.

use super::refused::KeyRefusal;

/// The sizes of RSA keys that are accepted: at least RFC 7518 section 3.3 asks for, at most what costs little time.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Checks a modulus and an exponent, both without leading zero bytes.
pub(super) fn check(n: &[u8], e: &[u8]) -> Result<(), KeyRefusal> {
    let bits = bits(n);
    if !RSA_BITS.contains(&bits) {
        return Err(KeyRefusal::Size(bits));
    }
    if !is_good_exponent(e) {
        return Err(KeyRefusal::Exponent);
    }
    if is_roca(n) {
        return Err(KeyRefusal::Roca);
    }
    Ok(())
}

/// The length of a big-endian number without leading zero bytes, in bits.
fn bits(number: &[u8]) -> usize {
    let unused = number.first().map_or(0, |byte| byte.leading_zeros());
    (number.len() * 8).saturating_sub(usize::try_from(unused).unwrap_or_default())
}

/// Whether an RSA exponent is odd, at least 65537, and short enough that verification stays fast.
fn is_good_exponent(e: &[u8]) -> bool {
    let mut value = 0_u64;
    for byte in e {
        let next = value.checked_mul(256).and_then(|more| more.checked_add(u64::from(*byte)));
        let Some(next) = next else { return false };
        value = next;
    }
    value % 2 == 1 && (65_537..=u64::from(u32::MAX)).contains(&value)
}

/// Whether a modulus is of the form that some chips generated, from which the private key can be computed
/// (CVE-2017-15361, ROCA). One in 2^27 other moduli has the form by chance.
fn is_roca(n: &[u8]) -> bool {
    let remainder = |p: u32| n.iter().fold(0, |rest, byte| (rest * 256 + u32::from(*byte)) % p);
    let is_power_of_65537 = |residue: u32, p: u32| {
        std::iter::successors(Some(1), |power| Some(power * (65_537 % p) % p))
            .take(p as usize)
            .any(|power| power == residue)
    };
    (3..=167)
        .filter(|n| (2..*n).all(|divisor| n % divisor != 0))
        .all(|p| is_power_of_65537(remainder(p), p))
}
