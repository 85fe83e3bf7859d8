"""Documents for people: invoices and credit notes as PDF in English and Traditional Chinese, lines as CSV.

    facts       what a document says beside the invoice: days, prices by segment, numbers of other invoices
    invoice     facts -> Paper (and `lines`, `chart`): every sentence and number as it will be read
    credit_note the same of a credit note
    words       the texts of both languages
    amounts     money, units, dates for people
    typesetter  Paper -> PDF, in a process of its own, bounded in time, memory and number
    downloads   documents as files
    lines_csv   an invoice's lines for spreadsheets and programs

Guarantees:
    A document computes nothing that is billed: its amounts are the invoice's own integers and fractions.
    What customers wrote is data, never markup, and comes out as they wrote it, or with a mark where no font
        has the character.
    The same invoice in the same state gives the same bytes.
"""
