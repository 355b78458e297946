//! Tokens in other places of a request: what is found is part of what came, and nothing is left of it.
#![no_main]

use identity_spoa::request::token_location::{
    TokenLookup, cookie, parameter, subprotocol, without_parameter, without_subprotocol,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for found in [cookie(data, b"token"), parameter(data, b"token"), subprotocol(data)] {
        if let TokenLookup::One(value) = found {
            assert!(value.is_empty() || data.windows(value.len()).any(|part| part == value));
        }
    }
    let rest = without_parameter(data, b"token");
    assert_eq!(rest.is_none(), parameter(data, b"token") == TokenLookup::Nothing);
    assert_eq!(parameter(&rest.unwrap_or_default(), b"token"), TokenLookup::Nothing);
    let rest = without_subprotocol(data);
    assert_eq!(rest.is_none(), subprotocol(data) == TokenLookup::Nothing);
    assert_eq!(subprotocol(&rest.unwrap_or_default()), TokenLookup::Nothing);
});
