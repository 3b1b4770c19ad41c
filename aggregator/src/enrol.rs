//! Enrolment: how an agent comes by its certificate, and how it loses it.
//!
//! A join token is made by an administrator ([`token`]), carried to a node, and exchanged there for a certificate that
//! names the agent ([`authority`] signs it). What was handed out is on the book ([`book`], pure: who may have what, and
//! why not), which one task owns ([`desk`]) and the state keeps. What handshakes and streams need of it is in
//! [`Standing`]: whether a certificate still counts.
//!
//! A certificate says who an agent is and nothing more: it can be used for a client only, never to pose as an aggregator.

mod authority;
mod book;
mod desk;
mod limit;
mod service;
mod standing;
mod token;

pub use authority::{Authority, AuthorityError, SERVER_RENEWAL};
pub use book::{CertificateView, NewToken, TokenView};
pub use desk::{Counters, Desk, DeskError, DeskHandle, EventView, Parts as DeskParts, Revoked};
pub use service::Enrolments;
pub use standing::Standing;
pub use token::JoinToken;
